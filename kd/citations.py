"""What to cite: BibTeX entries, and which of them each class of this package goes with, by its name.

A class that is not listed goes with what its base class goes with. Pages and volumes are left out where sources
disagree.
"""

REFERENCES = {
    "lanzillotta2025revisiting": """\
@misc{lanzillotta2025revisiting,
  title  = {Revisiting Knowledge Distillation: The Hidden Role of Dataset Size},
  author = {Lanzillotta, Giulia and Sarnthein, Felix and Kur, Gil and Hofmann, Thomas and He, Bobby},
  year   = {2025},
  eprint = {2510.15516},
  archivePrefix = {arXiv},
}""",
    "hinton2015distilling": """\
@misc{hinton2015distilling,
  title  = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year   = {2015},
  eprint = {1503.02531},
  archivePrefix = {arXiv},
}""",
    "zhao2022decoupled": """\
@inproceedings{zhao2022decoupled,
  title     = {Decoupled Knowledge Distillation},
  author    = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
  url       = {https://arxiv.org/abs/2203.08679},
}""",
    "yuan2020revisiting": """\
@inproceedings{yuan2020revisiting,
  title     = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author    = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {3903--3911},
  year      = {2020},
}""",
    "szegedy2016rethinking": """\
@inproceedings{szegedy2016rethinking,
  title     = {Rethinking the Inception Architecture for Computer Vision},
  author    = {Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jon and Wojna, Zbigniew},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  pages     = {2818--2826},
  year      = {2016},
}""",
    "furlanello2018born": """\
@inproceedings{furlanello2018born,
  title     = {Born Again Neural Networks},
  author    = {Furlanello, Tommaso and Lipton, Zachary and Tschannen, Michael and Itti, Laurent and
               Anandkumar, Anima},
  booktitle = {Proceedings of the 35th International Conference on Machine Learning},
  year      = {2018},
  url       = {https://proceedings.mlr.press/v80/furlanello18a.html},
}""",
    "tang2020understanding": """\
@misc{tang2020understanding,
  title  = {Understanding and Improving Knowledge Distillation},
  author = {Tang, Jiaxi and Shivanna, Rakesh and Zhao, Zhe and Lin, Dong and Singh, Anima and Chi, Ed H. and
            Jain, Sagar},
  year   = {2020},
  eprint = {2002.03532},
  archivePrefix = {arXiv},
}""",
    "romero2015fitnets": """\
@inproceedings{romero2015fitnets,
  title     = {{FitNets}: Hints for Thin Deep Nets},
  author    = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and
               Gatta, Carlo and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year      = {2015},
  url       = {https://arxiv.org/abs/1412.6550},
}""",
    "kornblith2019similarity": """\
@inproceedings{kornblith2019similarity,
  title     = {Similarity of Neural Network Representations Revisited},
  author    = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {Proceedings of the 36th International Conference on Machine Learning},
  year      = {2019},
  url       = {https://proceedings.mlr.press/v97/kornblith19a.html},
}""",
    "radford2019language": """\
@techreport{radford2019language,
  title       = {Language Models are Unsupervised Multitask Learners},
  author      = {Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and
                 Sutskever, Ilya},
  institution = {OpenAI},
  year        = {2019},
}""",
}

CITATIONS: dict[str, tuple[str, ...]] = {
    "KnowledgeDistillation": ("lanzillotta2025revisiting",),
    "DataFraction": ("lanzillotta2025revisiting",),
    "KLDistillation": ("hinton2015distilling",),
    "SoftCrossEntropy": ("hinton2015distilling",),
    "DecoupledKL": ("zhao2022decoupled",),
    "LabelSmoothing": ("szegedy2016rethinking",),
    "VirtualTeacher": ("yuan2020revisiting",),
    "MatchedSmoothing": ("yuan2020revisiting",),
    "ConfidenceWeighted": ("furlanello2018born",),
    "PermutedNonTargets": ("furlanello2018born",),
    "ClassMean": ("tang2020understanding",),
    "FeatureMSE": ("romero2015fitnets",),
    "CKAMatching": ("kornblith2019similarity",),
    "CausalTransformer": ("radford2019language",),
}
