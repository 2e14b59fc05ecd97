// pod
