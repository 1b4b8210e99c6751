"""From a command line or a saved file to typed objects: arguments, names, help, specs."""
