"""What the user asked for, typed and checked, before anything heavy is imported."""
