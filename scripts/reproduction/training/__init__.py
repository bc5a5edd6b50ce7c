"""What every training has, whichever engine runs it: state, records, signs of health, model cards."""
