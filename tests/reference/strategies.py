"""Federations of logistic regressions, in float64 from the papers: compares the models that they end with.

usage: strategies.py FILE; exits 1 if a model differs from the file's by more than 1e-6 in any entry
"""

import json
import sys

import numpy as np


def gradient(weights, bias, inputs, labels):
    """Of the mean cross-entropy of a softmax; weights have shape [classes, inputs]."""
    scores = inputs @ weights.T + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    errors = scores / scores.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    return errors.T @ inputs / len(labels), errors.mean(axis=0)


def local(case, start, inputs, labels, own, mean):
    """Li et al. 2020, FedProx: descent on F(w) + mu/2 |w - start|^2; McMahan et al. 2017 where mu is 0.

    Karimireddy et al. 2020, SCAFFOLD: each gradient is corrected by the mean control variate less the site's own.
    """
    model = [part.copy() for part in start]
    for _ in range(case["steps"]):
        slopes = gradient(*model, inputs, labels)
        for part, slope, first, mine, all_of_them in zip(model, slopes, start, own, mean):
            part -= case["learning_rate"] * (slope - mine + all_of_them + case["mu"] * (part - first))
    return model


def second_moment(rule, second, square):
    """With beta_2 of 0.99."""
    if rule == "adagrad":
        return second + square
    if rule == "adam":
        return 0.99 * second + 0.01 * square
    return second - 0.01 * square * np.sign(second - square)


def federate(case):
    """Every site trains from the model, whole batches; the mean update is by cases.

    Hsu, Qi and Brown 2019, FedAvgM: the server keeps a velocity; without momentum it is the mean update.
    Reddi et al. 2021, algorithm 2: an adaptive server keeps two moments, the second from tau squared on.
    Karimireddy et al. 2020, algorithm 1, option II: the control variates of the sites that have trained until now, and
    their mean by cases; a site that comes for the first time begins with the mean.
    """
    sites = [(np.array(site["inputs"]), np.array(site["labels"])) for site in case["sites"]]
    model = [np.array(case["weights"]), np.array(case["bias"])]
    velocity = [np.zeros_like(part) for part in model]
    rule, tau = case["adaptive"] or (None, 0.0)
    first, second = [np.zeros_like(part) for part in model], [np.full_like(part, tau**2) for part in model]
    variates, control = {}, [np.zeros_like(part) for part in model]
    reach = case["steps"] * case["learning_rate"]
    for number in range(case["rounds"]):
        mean = [np.zeros_like(part) for part in model]
        there = [site for site in range(len(sites)) if number % 2 == 0 or site != case["away"]]
        cases = sum(len(sites[site][1]) for site in there)
        for site in there:
            inputs, labels = sites[site]
            own = variates.get(site, control)
            trained = local(case, model, inputs, labels, own, control)
            for part, after, before in zip(mean, trained, model):
                part += len(labels) / cases * (after - before)
            if case["corrects"]:
                variates[site] = [
                    mine - all_of_them + (before - after) / reach
                    for mine, all_of_them, before, after in zip(own, control, model, trained)
                ]
        if case["corrects"]:
            weights = {site: len(sites[site][1]) for site in variates}
            control = [
                sum(weights[site] * variates[site][at] for site in variates) / sum(weights.values())
                for at in range(len(model))
            ]
        if rule:
            first = [0.9 * last + 0.1 * step for last, step in zip(first, mean)]
            second = [second_moment(rule, last, step**2) for last, step in zip(second, mean)]
            steps = [m / (np.sqrt(v) + tau) for m, v in zip(first, second)]
            model = [part + case["server_learning_rate"] * step for part, step in zip(model, steps)]
            continue
        velocity = [case["server_momentum"] * last + step for last, step in zip(velocity, mean)]
        model = [part + case["server_learning_rate"] * step for part, step in zip(model, velocity)]
    return np.concatenate([part.ravel() for part in model])


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    worst = 0.0
    for name, case in cases.items():
        difference = float(np.abs(federate(case) - np.array(case["model"])).max())
        print(f"{name}: differs by {difference:.1e}")
        worst = max(worst, difference)
    return int(not worst <= 1e-6)


if __name__ == "__main__":
    sys.exit(main())
