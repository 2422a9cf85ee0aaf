from ernie_m.utils import replace_linked_module

replace_linked_module(__name__)
