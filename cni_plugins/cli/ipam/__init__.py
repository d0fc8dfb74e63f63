"""Implements `cnictl ipam`: blocks of the IPAM plugin cluster."""
