"""What every stage stands on; editing any of it reruns everything."""
