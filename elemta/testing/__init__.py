"""What tests of mail need, ours as well as those of plugin authors."""
