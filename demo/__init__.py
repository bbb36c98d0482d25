"""The demo: a Gradio page over a saved model. Runs from its own folder, too, as a Space of the Hub does."""
