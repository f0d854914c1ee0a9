"""What operators see: assets, checks, sensors and jobs. Wiring only; decisions are in pipeline and stages."""
