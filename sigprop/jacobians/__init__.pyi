from ._exponents import Exponents, alignment, block_averages, sample_exponents
from ._goldstone import Certificate, backward_charges, certify
from ._jacobian_samples import JacobianSample, sample_jacobian, sample_jacobians
from ._leading_values import LeadingValues, leading_singular_values
from ._product import ProductSpectrum, product_log_singular_values, spectrum_of_product
from ._spectrum_estimate import SpectrumEstimate, estimate_spectrum

__all__ = [
    "Certificate",
    "Exponents",
    "JacobianSample",
    "LeadingValues",
    "ProductSpectrum",
    "SpectrumEstimate",
    "alignment",
    "backward_charges",
    "block_averages",
    "certify",
    "estimate_spectrum",
    "leading_singular_values",
    "product_log_singular_values",
    "sample_exponents",
    "sample_jacobian",
    "sample_jacobians",
    "spectrum_of_product",
]
