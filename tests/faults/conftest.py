"""The mini workflow's fixtures."""

from mini_workflow import extended_checkout, fresh, reproduced, whole_paper

__all__ = ["extended_checkout", "fresh", "reproduced", "whole_paper"]
