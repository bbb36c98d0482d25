"""In come a trained model and clips whose truth is known; out go captions, searches and scores."""
