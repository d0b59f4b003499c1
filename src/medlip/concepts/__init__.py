"""What can be said of a chest X-ray: pathologies, anatomies, their sides, synonyms and descriptions."""

from medlip.concepts.vocabulary import Anatomy, Pathology, Vocabulary, Wording, default_vocabulary, load_vocabulary

__all__ = ["Anatomy", "Pathology", "Vocabulary", "Wording", "default_vocabulary", "load_vocabulary"]
