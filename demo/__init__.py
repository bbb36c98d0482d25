"""The demo: a Gradio page for a saved model. It also runs from its own folder, as in a Space of the Hub."""
