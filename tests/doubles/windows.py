"""A watch over a device that was disturbed once."""

from __future__ import annotations


class Once:
    """`measure.windows.Windows`: the first window is wanted again. `asked` counts the windows."""

    asked = 0

    def begin(self) -> None:
        pass

    def again(self) -> bool:
        self.asked += 1
        return self.asked == 1
