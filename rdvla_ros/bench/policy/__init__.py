"""Speed of a whole decision of a published-size model, stage by stage."""
