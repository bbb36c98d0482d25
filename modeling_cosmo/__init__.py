"""CosMo for transformers: configuration, model, processor.

Importing this package also registers CosMo with the Auto classes, so that a saved folder loads without running its
own copy of this code.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .collator_cosmo import CosmoDataCollator
from .configuration_cosmo import CosmoConfig
from .modeling_cosmo import CosmoForConditionalGeneration, CosmoModel
from .processing_cosmo import CosmoProcessor


__all__ = ["CosmoConfig", "CosmoDataCollator", "CosmoForConditionalGeneration", "CosmoModel", "CosmoProcessor"]

AutoConfig.register(CosmoConfig.model_type, CosmoConfig, exist_ok=True)
AutoModel.register(CosmoConfig, CosmoModel, exist_ok=True)
AutoModelForImageTextToText.register(CosmoConfig, CosmoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(CosmoConfig, CosmoProcessor, exist_ok=True)
