"""The mini workflow's fixtures."""

from mini_workflow import fresh, reproduced, whole_paper

__all__ = ["fresh", "reproduced", "whole_paper"]
