raise ImportError("the adapter must pass this package's __init__ over: it pulls in everything")
