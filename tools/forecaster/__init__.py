"""Makes the forecasters that ship: simulate, train, build int8 TFLite, measure."""
