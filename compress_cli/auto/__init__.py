"""From a model, data, promises and a time to a recipe that keeps them.

    Request -> Subject -> formats measured on val -> students sized to the budget -> compared on val -> Recipe -> run -> limits

What is measured on the way is remembered in the store (`journal`), so that the same request decides the same way again, and
goes on where it was interrupted. No decision sees the test split.
"""
