"""In come a trained model and clips with known truth; out go captions, searches and scores."""
