"""How the schema came to be what it is: Alembic revisions, applied by `Store.upgrade`."""
