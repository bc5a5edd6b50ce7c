"""Rehearsals of the verl engine: on CPUs with stand-ins for the models, and on the machines that will train.

``stand_in`` makes a small model with a real tokenizer and configuration, ``cells`` says which configurations of a
scale differ, ``exercise`` trains two steps, kills, resumes and evaluates, ``checks`` asks the records what must hold,
``preflight`` does the same at full size on the user's machines.
"""

from reproduction.rehearsal.stand_in import load_stand_ins
