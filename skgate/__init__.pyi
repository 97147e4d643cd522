from . import activations as activations
from . import baselines as baselines
from . import datasets as datasets
from . import distributed as distributed
from . import evaluation as evaluation
from . import gate as gate
from . import inspection as inspection
from . import judges as judges
from . import metrics as metrics
from . import steering as steering
from ._provenance import ActivationSource as ActivationSource
from .activations import ActivationStore as ActivationStore
from .activations import ActivationTransformer as ActivationTransformer
from .gate import LatentGate as LatentGate
from .gate import OperatingPoint as OperatingPoint
from .model._registry import release_models as release_models
from .model._registry import set_max_models as set_max_models
from .steering import SteeringWrapper as SteeringWrapper
from .steering import relocate as relocate

__version__: str
