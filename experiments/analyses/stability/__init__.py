"""Does a circuit stand under other choices of the analyst?"""
