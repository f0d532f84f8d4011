"""Pure feature logic, one code for online and offline use."""
