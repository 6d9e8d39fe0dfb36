"""Line-API widgets: each draws its own strips, so that a tick repaints only the rows that changed."""
