"""The outbound Envoy's configuration: listener, upstreams, what it decides itself and what it writes down."""
