"""The mini workflow's fixtures."""

from mini_workflow import checkout, extended_checkout, fresh, reproduced, whole_paper

__all__ = ["checkout", "extended_checkout", "fresh", "reproduced", "whole_paper"]
