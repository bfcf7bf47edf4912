"""Delivery: routes, transports, outcomes. It never touches the queue."""
