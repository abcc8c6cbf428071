"""The pages and the HTTP operations: what a browser or another process of this machine may ask."""
