"""Makes the traces in this folder: `pip install simglucose==0.2.11 setuptools`, then `python make_traces.py`.

A virtual patient of the UVA/Padova type 1 diabetes model eats three meals a day under a basal-bolus
controller, and a model of a Dexcom sensor reads the glucose under the skin every three minutes.
The seeds are fixed, so that the same files come out again.
"""

import csv
from datetime import datetime, timedelta
from pathlib import Path

from simglucose.actuator.pump import InsulinPump
from simglucose.controller.base import Action
from simglucose.controller.basal_bolus_ctrller import BBController
from simglucose.patient.t1dpatient import T1DPatient
from simglucose.sensor.cgm import CGMSensor
from simglucose.simulation.env import T1DSimEnv
from simglucose.simulation.scenario import CustomScenario

BEGIN = datetime(2026, 1, 12, 6, 0)
DAY = [(1.0, 45), (6.5, 70), (12.5, 80)]  # hours after the beginning, grams of carbohydrate


class Overdosed(BBController):
    """The same controller with a share of insulin that is wrong for the patient."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def policy(self, *arguments, **more):
        action = super().policy(*arguments, **more)
        return Action(basal=action.basal * self.share, bolus=action.bolus * self.share)


def trace(patient, controller, seed, name):
    environment = T1DSimEnv(
        T1DPatient.withName(patient),
        CGMSensor.withName("Dexcom", seed=seed),
        InsulinPump.withName("Insulet"),
        CustomScenario(start_time=BEGIN, scenario=DAY),
    )
    step = environment.reset()
    sample = timedelta(minutes=environment.sample_time)
    rows = []
    for _ in range(480):
        rows.append((environment.time.isoformat(timespec="minutes"), round(step.observation.CGM, 1)))
        action = controller.policy(step.observation, step.reward, step.done, **step.info)
        step = environment.step(action)
        if step.done:
            break
    with open(Path(__file__).parent / name, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("time", "glucose_mg_dl"))
        writer.writerows(rows)
    values = [value for _, value in rows]
    print(f"{name}: {len(rows)} readings every {sample}, {min(values)} to {max(values)} mg/dL")


trace("adult#001", BBController(), 1, "adult-001.csv")
trace("adolescent#001", Overdosed(1.9), 2, "adolescent-001.csv")
trace("child#001", Overdosed(0.35), 3, "child-001.csv")
