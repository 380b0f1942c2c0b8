"""The translator as a machine: `accel.Vm` and `accel.Vcpu`."""
