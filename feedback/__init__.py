"""What people said, and what we made of it: records, store, importers, compiler, dataset."""
