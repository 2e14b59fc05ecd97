// quantiles
