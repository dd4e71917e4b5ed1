"""Many trainings as one program: sweeps, folds, halving, ensembles; influence."""

from train.many.axes import LogUniform as LogUniform
from train.many.axes import settings as settings
from train.many.curvature import hessian_vector as hessian_vector
from train.many.curvature import largest as largest
from train.many.curvature import trace as trace
from train.many.folds import CrossValidated as CrossValidated
from train.many.folds import Folds as Folds
from train.many.folds import bootstraps as bootstraps
from train.many.folds import cross_validate as cross_validate
from train.many.folds import folds as folds
from train.many.folds import varied as varied
from train.many.influence import Influence as Influence
from train.many.influence import Noise as Noise
from train.many.influence import influence as influence
from train.many.influence import noise_scale as noise_scale
from train.many.influence import per_example as per_example
from train.many.population import Member as Member
from train.many.population import Population as Population
from train.many.population import Varied as Varied
from train.many.population import same as same
from train.many.sweeps import Sweep as Sweep
from train.many.sweeps import sweep as sweep
