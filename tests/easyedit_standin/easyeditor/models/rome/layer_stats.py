raise ImportError("the adapter must pass this module over: it collects statistics over Wikipedia")
