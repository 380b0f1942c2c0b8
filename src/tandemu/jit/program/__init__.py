"""The translator for foreign programs: `accel.user.UserEngine`."""
