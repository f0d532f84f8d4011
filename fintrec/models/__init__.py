"""The two transformers (pCTR decoder, pCVR encoder), written in TorchScript's subset."""
