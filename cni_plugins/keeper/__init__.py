<<<<<<< HEAD
"""Follows the networks whose peers come from a store or file: claims, publishes, applies, repairs."""
=======
"""Follows stores, and applies on this host what they say."""
>>>>>>> network
