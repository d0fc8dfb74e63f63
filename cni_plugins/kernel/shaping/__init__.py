"""Traffic control: token buckets, ifb links, and filters that redirect packets to them."""
