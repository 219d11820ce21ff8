"""The steps of the method, each on Ray: the only home of Ray Data and Ray Train. No stage imports another."""
