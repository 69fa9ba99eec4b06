"""Where numbers become integers: tracing, annotations of quantise/dequantise pairs, quantizers."""
