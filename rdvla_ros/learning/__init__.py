"""Learning from demonstrations: data, recurrent-depth training, closed-loop evaluation."""
