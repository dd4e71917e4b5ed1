"""Linear models and the single neuron, for tables."""

from train.data import Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.recipes.images import outputs
from train.report.measure import predictions
from zoo import linear as linears
from zoo.base import Number, Task, UsageError, concrete


def linear(schema: Schema) -> Built:
    """Linear regression by least squares."""
    return _built(linears.regression(outputs=outputs(schema)), schema)


def ridge(schema: Schema, *, alpha: Number = 1.0) -> Built:
    """`alpha` is that of scikit-learn's Ridge, on standardised data."""
    _at_least_zero("alpha", alpha)
    return _penalised(schema, l2=alpha / schema.rows)


def lasso(schema: Schema, *, alpha: Number = 0.01) -> Built:
    """`alpha` is that of scikit-learn's Lasso, on standardised x and y."""
    _at_least_zero("alpha", alpha)
    return _penalised(schema, l1=2 * alpha)


def logistic(schema: Schema, *, penalty: Number = 1.0) -> Built:
    """Two classes; `penalty` is scikit-learn's 1 / C."""
    _at_least_zero("penalty", penalty)
    _two_classes("logistic", schema)
    return _built(linears.logistic(l2=penalty / (2 * schema.rows)), schema)


def softmax(schema: Schema, *, penalty: Number = 1.0) -> Built:
    """Any number of classes; `penalty` is scikit-learn's 1 / C."""
    _at_least_zero("penalty", penalty)
    l2 = penalty / (2 * schema.rows)
    return _built(linears.softmax(len(schema.classes), l2=l2), schema)


def neuron(schema: Schema) -> Built:
    """One sigmoid neuron on the squared error."""
    _two_classes("neuron", schema)
    built = _built(linears.neuron(), schema)
    return built._replace(report=built.report._replace(unit=""))  # no cross entropy


def _penalised(schema, **strength):
    """Of several quantities the loss is the mean, and so is the penalty."""
    count = outputs(schema)
    strength = {name: value / count for name, value in strength.items()}
    return _built(linears.regression(outputs=count, **strength), schema)


def _built(task: Task, schema: Schema) -> Built:
    return Built(task, None, predictions(task, schema))


def _two_classes(recipe, schema):
    if len(schema.classes) != 2:
        raise UsageError(
            f"{recipe} tells two classes apart, {schema.name} has "
            f"{len(schema.classes)}; try softmax"
        )


def _at_least_zero(name, value):
    if concrete(value) and not value >= 0:
        raise UsageError(f"expected {name} >= 0, found {value}")


RECIPES = {
    "linear": Recipe(
        linear,
        views.quantity,
        "diabetes",
        Training(60, optimizer="lbfgs"),
        Goal("r2", 0.5177),
        "Linear regression by least squares, on all of the data unless --holdout is "
        "given. R2 is that of the closed form on the data it was fitted to.",
        "two seconds",
        'Efron et al., "Least angle regression", 2004',
    ),
    "ridge": Recipe(
        ridge,
        views.quantity,
        "diabetes",
        Training(60, optimizer="lbfgs"),
        Goal("r2", 0.517),
        "Ridge regression; alpha as scikit-learn's Ridge has it, on standardised data.",
        "two seconds",
        'Hoerl & Kennard, "Ridge regression", 1970',
    ),
    "lasso": Recipe(
        lasso,
        views.quantity,
        "diabetes",
        # the rate falls to zero, and with it the steps across the kink of |w|
        Training(2000, None, "nesterov", 0.02, "cosine"),
        Goal("r2", 0.51),
        "Lasso; alpha as scikit-learn's Lasso has it, on standardised x and y.",
        "two seconds",
        'Tibshirani, "Regression shrinkage and selection via the lasso", 1996',
    ),
    "logistic": Recipe(
        logistic,
        views.classes,
        "breast_cancer",
        Training(100, optimizer="lbfgs"),
        Goal("accuracy", 0.97),
        "Logistic regression of two classes; penalty is scikit-learn's 1 / C.",
        "two seconds",
        'Cox, "The regression analysis of binary sequences", 1958',
    ),
    "softmax": Recipe(
        softmax,
        views.classes,
        "digits",
        Training(100, optimizer="lbfgs"),
        Goal("accuracy", 0.95),
        "Softmax regression of any number of classes; penalty is scikit-learn's 1 / C.",
        "three seconds",
        'Hastie et al., "The elements of statistical learning", 2009, section 4.4',
    ),
    "neuron": Recipe(
        neuron,
        views.classes,
        "and",
        Training(1000, None, "sgd", 5.0),
        Goal("accuracy", 1.0),
        'One sigmoid neuron on the squared error: it learns "and" and "or", never '
        '"xor"; `zoo train mlp --data xor` is the way out.',
        "a second",
        'Minsky & Papert, "Perceptrons", 1969',
    ),
}
