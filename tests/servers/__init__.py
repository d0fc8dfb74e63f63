"""Real etcd, Consul and ZooKeeper servers for tests, of one member or several; .ci/servers fetches them."""
