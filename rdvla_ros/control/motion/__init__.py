"""From action chunks to motions that stay within the limits of the joints."""
