from ._probe import DescriptionCheck, JacobianReport, LayerSignals, Probe, probe

__all__ = [
    "DescriptionCheck",
    "JacobianReport",
    "LayerSignals",
    "Probe",
    "probe",
]
