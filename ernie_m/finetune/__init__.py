from ernie_m.utils import be_one_module

be_one_module(__name__)
