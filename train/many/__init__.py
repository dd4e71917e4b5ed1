"""Many trainings as one program: sweeps, folds, halving, ensembles."""

from train.many import ensemble as ensemble
from train.many.axes import LogUniform as LogUniform
from train.many.axes import settings as settings
from train.many.folds import CrossValidated as CrossValidated
from train.many.folds import Folds as Folds
from train.many.folds import bootstraps as bootstraps
from train.many.folds import cross_validate as cross_validate
from train.many.folds import folds as folds
from train.many.folds import varied as varied
from train.many.halving import Search as Search
from train.many.halving import evolve as evolve
from train.many.halving import halving as halving
from train.many.population import Member as Member
from train.many.population import Population as Population
from train.many.population import Varied as Varied
from train.many.population import same as same
from train.many.sweeps import Sweep as Sweep
from train.many.sweeps import sweep as sweep
from train.many.through import through as through
from train.many.through import weighted as weighted
