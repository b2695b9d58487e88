"""The words and the rules: frozen values, pure policies, configuration. No torch, no Dask, no web server."""
