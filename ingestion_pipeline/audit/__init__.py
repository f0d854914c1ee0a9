"""Whether everything that is stored agrees with everything else, and what can be mended of it.

Reads Postgres through inventory.Inventory, objects through ports.ObjectStore, Dagster through inventory.PartitionBook.
"""
